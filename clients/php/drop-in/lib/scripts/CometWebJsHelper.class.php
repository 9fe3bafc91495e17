<?php

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists('Comet\Web\JsHelper')) {
    return;
}

/** The name of version 1. */
class CometWebJsHelper extends \Comet\Web\JsHelper
{
}
