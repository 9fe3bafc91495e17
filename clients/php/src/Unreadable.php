<?php

declare(strict_types=1);

namespace CometServer;

/** A message whose data PHP cannot read: JSON that older servers took, and today's refuse. */
final class Unreadable
{
    public string $channel;

    /** Its number in the channel, from 1 without holes. */
    public int $offset;

    /** When it was published, in milliseconds since 1970. */
    public int $time;

    /** Why it cannot be read. */
    public string $reason;

    /** The whole message as the server gave it, JSON that `json_decode()` refuses. */
    public string $json;

    /** @param array<string,mixed> $object as in the protocol, without its data */
    public function __construct(array $object, string $json)
    {
        $message = new Message($object);
        $this->channel = $message->channel;
        $this->offset = $message->offset;
        $this->time = $message->time;
        $this->reason = (string) ($object['unreadable'] ?? '');
        $this->json = $json;
    }
}
