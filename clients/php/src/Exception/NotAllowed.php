<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** The key or token is missing, over, or does not allow this. */
final class NotAllowed extends Refused
{
}
