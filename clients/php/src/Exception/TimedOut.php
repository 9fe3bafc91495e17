<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** No answer in time: the request may or may not have been carried out. */
final class TimedOut extends CometException
{
}
