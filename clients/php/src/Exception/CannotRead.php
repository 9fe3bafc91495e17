<?php

declare(strict_types=1);

namespace CometServer\Exception;

use CometServer\Unreadable;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** There is a value, and PHP cannot read it. Publishing another one in its place, or deleting it, helps. */
final class CannotRead extends CometException
{
    public Unreadable $unreadable;

    public function __construct(Unreadable $unreadable)
    {
        parent::__construct("the value of {$unreadable->channel} cannot be read ({$unreadable->reason}): publish another one, or delete it");
        $this->unreadable = $unreadable;
    }
}
