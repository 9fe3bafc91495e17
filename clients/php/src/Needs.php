<?php

declare(strict_types=1);

namespace CometServer;

use CometServer\Exception\CometException;
use CometServer\Exception\Lacking;

/**
 * What the client needs of PHP: functions, which hosts may forbid with `disable_functions`. It is asked for once, before anything
 * is done, so that what is missing is told by its name. What the client can do without is not in the list.
 */
final class Needs
{
    private const FUNCTIONS = [
        'abs', 'array_filter', 'array_flip', 'array_intersect_key', 'array_map', 'array_shift', 'array_values', 'base64_decode',
        'base64_encode', 'bin2hex', 'ceil', 'class_exists', 'count', 'dirname', 'explode', 'fclose', 'feof', 'file_exists',
        'file_get_contents', 'fread', 'fwrite', 'hash_hmac', 'hexdec', 'http_build_query', 'implode', 'in_array', 'is_array', 'is_file',
        'is_string', 'json_decode', 'json_encode', 'json_last_error', 'json_last_error_msg', 'max', 'md5', 'microtime', 'min', 'parse_url', 'preg_match', 'preg_replace',
        'random_bytes', 'rtrim', 'sprintf', 'strcspn', 'stream_select', 'stream_set_blocking', 'stripos', 'strlen', 'strncmp', 'strpos', 'strspn',
        'strtolower', 'strtr', 'substr', 'time', 'trim',
    ];

    private static bool $met = false;

    /** @throws CometException with the name of the function that is missing */
    public static function check(): void
    {
        if (self::$met) {
            return;
        }
        try {
            foreach (self::FUNCTIONS as $name) {
                if (!function_exists($name)) {
                    throw self::lacking($name);
                }
            }
        } catch (\Error $error) {
            throw self::lacking('function_exists');
        }
        self::$met = true;
    }

    /** The exception for a function that is missing. */
    public static function lacking(string $name): CometException
    {
        return new Lacking("PHP has no function $name() here: take it out of disable_functions in php.ini, or ask your host to");
    }
}
