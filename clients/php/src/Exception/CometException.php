<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** Whatever goes wrong between us and the server. What the caller did wrong is an \InvalidArgumentException instead. */
abstract class CometException extends \RuntimeException
{
}
