<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(Refused::class)) {
    return;
}

/** There is no such thing. */
final class NotFound extends Refused
{
}
