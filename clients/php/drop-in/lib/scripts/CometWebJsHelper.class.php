<?php

/** The name of version 1. */
class CometWebJsHelper extends \Comet\Web\JsHelper
{
}
