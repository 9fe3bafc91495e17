<?php
/** What the script in index.php waits at. */

require_once __DIR__ . '/../../clients/php/drop-in/config/bootstrap.php';

$comet = new Comet\Web\CInterface();
$comet->setKey(require __DIR__ . '/key.php');
echo $comet->readAsXml();
