<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** There is no connection, so nothing was done. */
final class Unreachable extends CometException
{
    /** The system's number of the fault, or 0: 2 no socket, 111 nobody answers on it, 13 not allowed. */
    public int $errno;

    /** Whether it took long to find out, as with a host that drops packets. */
    public bool $slow;

    public function __construct(string $message, int $errno = 0, bool $slow = false)
    {
        parent::__construct($message);
        $this->errno = $errno;
        $this->slow = $slow;
    }

    /** Is the server of this machine simply not running? Then it may be started. */
    public function isNotRunning(): bool
    {
        // ENOENT; ECONNREFUSED of Linux and of the BSDs.
        return in_array($this->errno, [2, 111, 61], true);
    }
}
