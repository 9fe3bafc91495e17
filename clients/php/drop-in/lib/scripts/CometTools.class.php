<?php

/** The name of version 1. */
class CometTools extends \Comet\Util\Tools
{
}
