<?php

require_once "../../config/bootstrap.php";

use Comet\Web\JsHelper as CometWebJsHelper,
    Comet\Web\CInterface as CometWebInterface
;

?>
<html>
    <head>
        <title>An application written to version 2</title>
        <script type="text/javascript">
            function notify(data)
            {
                var shown = document.createElement('div');
                shown.className = 'notification';
                shown.innerHTML = data;
                document.body.appendChild(shown);
            }
        </script>
        <?php CometWebJsHelper::create()->renderJsTag("read.php", "notify"); ?>
    </head>
    <body></body>
</html>
