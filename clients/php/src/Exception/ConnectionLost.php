<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** The connection ended before the answer: the request may or may not have been carried out. */
final class ConnectionLost extends CometException
{
}
