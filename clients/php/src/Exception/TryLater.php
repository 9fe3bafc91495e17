<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(Refused::class)) {
    return;
}

/** The server has no room for this now. */
final class TryLater extends Refused
{
}
