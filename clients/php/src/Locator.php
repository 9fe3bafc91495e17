<?php

declare(strict_types=1);

namespace CometServer;

/**
 * Where the server is: options, else COMETSERVER_SOCKET and COMETSERVER_DATA_DIR, else a file `comet-config.php` beside the
 * client, else the default data folder.
 *
 * Under PHP-FPM a variable of ours usually does not arrive; the file is for that. It is PHP and returns an array, so that a web
 * server that sees it never shows what is in it.
 */
final class Locator
{
    /** The data folder of a server that root runs. */
    private const ROOT_DATA_DIR = '/var/lib/cometserver';

    /** Names of the file's entries that are passed on. */
    private const KNOWN = ['data_dir', 'socket', 'public_socket', 'url', 'key', 'binary', 'config', 'args', 'start', 'token_secret', 'token_secret_file', 'token_kid'];

    /**
     * All that is known, options first.
     *
     * @param array<string,mixed> $options
     *
     * @return array<string,mixed> `data_dir` and `socket` are always there
     */
    public static function resolve(array $options): array
    {
        $found = array_filter($options, static fn ($value): bool => $value !== null && $value !== '');
        $named = isset($found['socket']) || isset($found['data_dir']) || isset($found['url']);
        $socket = self::variable('COMETSERVER_SOCKET');
        $folder = self::variable('COMETSERVER_DATA_DIR');
        if (!$named && $socket !== null) {
            $found['socket'] = $socket;
        }
        if (!$named && $folder !== null) {
            $found['data_dir'] = $folder;
        }
        foreach (self::file($found['config_file'] ?? null) as $name => $value) {
            // Who says where it is in one place must not be mixed with what another says.
            $where = in_array($name, ['socket', 'data_dir', 'url', 'key'], true);
            if (!isset($found[$name]) && !($where && ($named || $socket !== null || $folder !== null))) {
                $found[$name] = $value;
            }
        }
        $found['data_dir'] = rtrim((string) ($found['data_dir'] ?? self::defaultDataDir()), '/');
        $found['socket'] = (string) ($found['socket'] ?? $found['data_dir'] . '/comet.sock');
        return $found;
    }

    /** The default data folder of this process's user. */
    public static function defaultDataDir(): string
    {
        $user = function_exists('posix_geteuid') ? posix_geteuid() : null;
        if ($user === 0) {
            return self::ROOT_DATA_DIR;
        }
        $state = self::variable('XDG_STATE_HOME');
        if ($state !== null && $state[0] === '/') {
            return "$state/cometserver";
        }
        $home = self::variable('HOME');
        if ($home === null && $user !== null && function_exists('posix_getpwuid')) {
            $home = posix_getpwuid($user)['dir'] ?? null;
        }
        return $home === null || $home === '' ? self::ROOT_DATA_DIR : rtrim($home, '/') . '/.local/state/cometserver';
    }

    /** @return array<string,mixed> */
    private static function file(?string $path): array
    {
        // Beside the package, and beside the folder that it was uploaded in.
        $places = $path !== null ? [$path] : [dirname(__DIR__) . '/comet-config.php', dirname(__DIR__, 2) . '/comet-config.php'];
        foreach ($places as $place) {
            if (@is_file($place)) {
                $entries = include $place;
                return is_array($entries) ? array_intersect_key($entries, array_flip(self::KNOWN)) : [];
            }
        }
        return [];
    }

    private static function variable(string $name): ?string
    {
        $value = getenv($name);
        if ($value === false || $value === '') {
            $value = $_SERVER[$name] ?? '';
        }
        return is_string($value) && $value !== '' ? $value : null;
    }
}
