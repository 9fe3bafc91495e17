<?php

require_once "../../config/bootstrap.php";

use Comet\Web\JsHelper as CometWebJsHelper,
    Comet\Web\CInterface as CometWebInterface
;

$cometWeb = new CometWebInterface(array('runTimeLimit' => 1));
echo $cometWeb->readOnce(isset($_GET['key']) ? $_GET['key'] : array('ali.hichem@mail.com'));
