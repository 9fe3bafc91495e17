<?php

/** The name of version 1. */
class CometServer extends \Comet\Internal\Server
{
}
