<?php

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists('Comet\Util\Tools')) {
    return;
}

/** The name of version 1. */
class CometTools extends \Comet\Util\Tools
{
}
