<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(Refused::class)) {
    return;
}

/** Something is over a limit, which the message names. */
final class TooLarge extends Refused
{
}
