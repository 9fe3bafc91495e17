<?php

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists('Comet\Cli\ArgumentHandler')) {
    return;
}

/** The name of version 1. */
class CometArgumentHandler extends \Comet\Cli\ArgumentHandler
{
}
