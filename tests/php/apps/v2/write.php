<?php

require_once "../../config/bootstrap.php";

use Comet\Web\JsHelper as CometWebJsHelper,
    Comet\Web\CInterface as CometWebInterface
;

$cometWeb = CometWebInterface::create();
$cometWeb->setKey(array('ali.hichem@mail.com'));
if (isset($_POST['comet-text'])) {
    $failure = $cometWeb->write($_POST['comet-text']);
}
if (isset($_POST['frm-comet-refresh'])) {
    $failure = $cometWeb->refresh();
}
echo "[", isset($failure) ? $failure : "nothing was sent", "]";
