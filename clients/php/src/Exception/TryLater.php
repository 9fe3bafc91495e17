<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** The server has no room for this now. */
final class TryLater extends Refused
{
}
