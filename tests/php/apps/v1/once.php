<?php

require_once "../../lib/CometAutoloader.class.php";

$cometWeb = new CometWebInterface(array('runTimeLimit' => 1));
echo $cometWeb->readOnce(isset($_GET['key']) ? $_GET['key'] : array('ali.hichem@mail.com'));
