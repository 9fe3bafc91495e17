<?php

require_once "../../config/bootstrap.php";

use Comet\Web\JsHelper as CometWebJsHelper,
    Comet\Web\CInterface as CometWebInterface
;

// An application that has no use for XML, behind a session.
session_start();
$_SESSION['seen'] = time();
$cometWeb = new CometWebInterface(array('runTimeLimit' => 3), 'own key');
echo "[", $cometWeb->read(), "]";
