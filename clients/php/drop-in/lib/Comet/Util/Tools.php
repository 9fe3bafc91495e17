<?php

namespace Comet\Util;

/** Two helpers for arrays. */
class Tools
{
    /** Merges arrays; for the same key the later one counts, and arrays under the same key are merged in turn. */
    public static function arrayDeepMerge()
    {
        $arguments = func_get_args();
        if (count($arguments) === 0) {
            return false;
        }
        $merged = array_shift($arguments);
        foreach ($arguments as $next) {
            if (!is_array($merged) || !is_array($next)) {
                $merged = $next;
                continue;
            }
            foreach ($next as $key => $value) {
                $both = array_key_exists($key, $merged) && is_array($merged[$key]) && is_array($value);
                $merged[$key] = $both ? self::arrayDeepMerge($merged[$key], $value) : $value;
            }
        }
        return $merged;
    }

    /** Are the keys anything but 0, 1, 2 …? An empty array counts as associative. */
    public static function isAssoc($array)
    {
        return count($array) === 0 || array_keys($array) !== range(0, count($array) - 1);
    }
}
