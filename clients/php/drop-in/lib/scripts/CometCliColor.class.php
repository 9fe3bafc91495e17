<?php

/** The name of version 1. */
class CometCliColor extends \Comet\Cli\Color
{
}
