<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** Something is over a limit, which the message names. */
final class TooLarge extends Refused
{
}
