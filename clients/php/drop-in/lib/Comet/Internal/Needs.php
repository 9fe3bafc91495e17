<?php

namespace Comet\Internal;

/**
 * The functions of PHP that these classes need, which hosts may forbid with `disable_functions`. The entrances ask for them, so that
 * what is missing is told by its name. What is not in the list is done without.
 */
class Needs
{
    private static $functions = array('addcslashes', 'array_key_exists', 'array_keys', 'array_map', 'array_shift', 'array_slice', 'base64_decode', 'ceil',
        'class_exists', 'count', 'define', 'defined', 'dirname', 'end', 'explode', 'fclose', 'feof', 'file_exists', 'file_get_contents', 'floor', 'fmod',
        'fopen', 'fread', 'func_get_args', 'fwrite', 'get_called_class', 'get_class_methods', 'gettype', 'header', 'headers_sent', 'htmlspecialchars',
        'http_build_query', 'implode', 'in_array', 'is_array', 'is_file', 'is_numeric', 'is_string', 'json_decode', 'json_encode', 'ltrim', 'max', 'md5',
        'microtime', 'min', 'mt_rand', 'preg_match', 'preg_replace', 'preg_replace_callback', 'range', 'rawurlencode', 'realpath', 'round', 'rtrim',
        'serialize', 'setcookie', 'spl_autoload_register', 'sprintf', 'str_replace', 'stream_select', 'stream_set_blocking', 'strlen', 'strncmp', 'strpos',
        'strrpos', 'strtok', 'strtoupper', 'substr', 'trim', 'uniqid', 'urldecode', 'urlencode');

    /** Throws a CometException with the name of the first function that is missing. */
    public static function check()
    {
        try {
            foreach (self::$functions as $name) {
                if (!function_exists($name)) {
                    throw self::lacking($name);
                }
            }
        } catch (\Error $error) {
            throw self::lacking('function_exists');
        }
    }

    public static function lacking($name)
    {
        return new CometException('PHP has no function ' . $name . '() here: take it out of disable_functions in php.ini, or ask your host to');
    }
}
