<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** The idempotency key was used with another payload. */
final class Conflict extends Refused
{
}
