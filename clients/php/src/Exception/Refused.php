<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown.
if (!class_exists(CometException::class)) {
    return;
}

/** The server answered, and said no. Its message says what to do. */
class Refused extends CometException
{
    /** The HTTP status. */
    public int $status;

    /** The code of the protocol, such as `bad_request`. */
    public string $error;

    /** After how many seconds to try again, if the server said so. */
    public ?int $retryAfter;

    final public function __construct(string $message, int $status, string $error, ?int $retryAfter = null)
    {
        parent::__construct($message, $status);
        $this->status = $status;
        $this->error = $error;
        $this->retryAfter = $retryAfter;
    }

    /** The exception for a status. */
    public static function of(int $status, string $error, string $detail, ?int $retryAfter): self
    {
        switch ($status) {
            case 401:
            case 403:
                return new NotAllowed($detail, $status, $error, $retryAfter);
            case 404:
                return new NotFound($detail, $status, $error, $retryAfter);
            case 409:
                return new Conflict($detail, $status, $error, $retryAfter);
            case 413:
                return new TooLarge($detail, $status, $error, $retryAfter);
            case 429:
            case 503:
                return new TryLater($detail, $status, $error, $retryAfter);
            default:
                return new self($detail, $status, $error, $retryAfter);
        }
    }
}
