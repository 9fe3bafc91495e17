<?php

/** The name of version 1. */
class CometArgumentHandler extends \Comet\Cli\ArgumentHandler
{
}
