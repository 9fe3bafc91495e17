<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** There is no such thing. */
final class NotFound extends Refused
{
}
