<?php

/** The name of version 1. */
class CometWebInterface extends \Comet\Web\CInterface
{
}
