<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** What answered is not a CometServer, or none of this version. */
final class BadAnswer extends CometException
{
}
