<?php

namespace Comet\Internal;

/** What keeps these classes from working, in words that say what to do. */
class CometException extends \RuntimeException
{
}
