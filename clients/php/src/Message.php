<?php

declare(strict_types=1);

namespace CometServer;

/** A message as the server gives it back. */
final class Message
{
    public string $channel;

    /** Its number in the channel, from 1 without holes. */
    public int $offset;

    /** When it was published, in milliseconds since 1970. */
    public int $time;

    /** `json`, `text` or `binary`. */
    public string $kind;

    /** @var mixed what was published: decoded JSON (objects as arrays), a text, or bytes */
    public $data;

    public ?string $event;
    public ?string $id;

    /** Who published it, if that was somebody with a token. */
    public ?string $user;

    /** @var array<string,string> */
    public array $tags;

    /** @param array<string,mixed> $object as in the protocol */
    public function __construct(array $object)
    {
        $this->channel = isset($object['channel_base64'])
            ? (string) base64_decode((string) $object['channel_base64'], true)
            : (string) ($object['channel'] ?? '');
        $this->offset = (int) ($object['offset'] ?? 0);
        $this->time = (int) ($object['time'] ?? 0);
        $this->kind = (string) ($object['kind'] ?? 'json');
        $data = $object['data'] ?? null;
        $this->data = $this->kind === 'binary' ? (string) base64_decode((string) $data, true) : $data;
        $this->event = isset($object['event']) ? (string) $object['event'] : null;
        $this->id = isset($object['id']) ? (string) $object['id'] : null;
        $this->user = isset($object['user']) ? (string) $object['user'] : null;
        $this->tags = (array) ($object['tags'] ?? []);
    }
}
