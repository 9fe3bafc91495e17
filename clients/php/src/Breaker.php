<?php

declare(strict_types=1);

namespace CometServer;

/**
 * Remembers for a few seconds, for all requests of the site, that the server keeps people waiting: then one visitor pays for
 * finding out, not each of them.
 *
 * Only slow faults count. A server that is not running is told at once, and costs nothing to ask.
 */
final class Breaker
{
    private float $seconds;
    private string $name;
    private ?string $file = null;
    private bool $shared;

    /** @var array<string,float> until when, where nothing else keeps it */
    private static array $own = [];

    /**
     * @param string      $target  what is asked
     * @param float       $seconds how long to leave it alone; 0: never
     * @param string|null $folder  where to keep a file if there is no APCu
     */
    public function __construct(string $target, float $seconds, ?string $folder)
    {
        $this->seconds = $seconds;
        $this->name = 'cometserver-breaker-' . md5($target);
        $this->shared = function_exists('apcu_enabled') && apcu_enabled();
        if (!$this->shared && $folder !== null) {
            $this->file = "$folder/{$this->name}";
        }
    }

    /** May the server be asked? After the pause, one caller is let through to see, and the others a moment later. */
    public function allows(): bool
    {
        $until = $this->seconds > 0 ? $this->until() : 0.0;
        if ($until === 0.0) {
            return true;
        }
        if (microtime(true) < $until) {
            return false;
        }
        $this->open();
        return true;
    }

    /** The server kept somebody waiting. */
    public function open(): void
    {
        if ($this->seconds <= 0) {
            return;
        }
        $until = microtime(true) + $this->seconds;
        self::$own[$this->name] = $until;
        if ($this->shared) {
            // Longer than it holds, so that only one caller is let through afterwards.
            apcu_store($this->name, $until, (int) ceil($this->seconds * 10));
        } elseif ($this->file !== null && function_exists('file_put_contents')) {
            @file_put_contents($this->file, sprintf('%.3F', $until));
        }
    }

    /** It answered. */
    public function close(): void
    {
        unset(self::$own[$this->name]);
        if ($this->shared) {
            apcu_delete($this->name);
        } elseif ($this->file !== null && function_exists('unlink') && @file_exists($this->file)) {
            @unlink($this->file);
        }
    }

    private function until(): float
    {
        if ($this->shared) {
            return (float) (apcu_fetch($this->name) ?: 0.0);
        }
        $kept = $this->file === null ? false : @file_get_contents($this->file);
        $until = (float) ($kept === false ? (self::$own[$this->name] ?? 0.0) : $kept);
        // Written when the clock was wrong, or long ago.
        return abs($until - microtime(true)) > $this->seconds * 10 ? 0.0 : $until;
    }
}
