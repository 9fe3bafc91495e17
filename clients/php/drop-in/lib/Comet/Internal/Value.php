<?php

namespace Comet\Internal;

/** A publication of the protocol, as the older classes see it: a text, and a time that no other has. */
class Value
{
    /** Its text, exactly. */
    public static function text(array $publication)
    {
        // What an old client wrote over the old wire, as an old web page would decode it.
        if (isset($publication['seed_token'])) {
            return urldecode(urldecode((string) base64_decode($publication['seed_token'])));
        }
        $kind = isset($publication['kind']) ? $publication['kind'] : 'json';
        $data = isset($publication['data']) ? $publication['data'] : null;
        if ($kind === 'text') {
            return (string) $data;
        }
        if ($kind === 'binary') {
            return (string) base64_decode((string) $data);
        }
        $plain = (defined('JSON_UNESCAPED_SLASHES') ? JSON_UNESCAPED_SLASHES : 0)
            | (defined('JSON_UNESCAPED_UNICODE') ? JSON_UNESCAPED_UNICODE : 0);
        $text = json_encode($data, $plain);
        // What an older server took and PHP reads but does not write: numbers beyond a float, nesting beyond 512.
        return is_string($text) ? $text : "\xEF\xBF\xBD";
    }

    /**
     * Seconds since 1970, the fraction made of the millisecond and the place in the channel: it differs for every write,
     * and rises.
     */
    public static function time(array $publication)
    {
        $time = isset($publication['time']) ? (float) $publication['time'] : 0.0;
        $offset = isset($publication['offset']) ? (float) $publication['offset'] : 0.0;
        return sprintf('%.0f.%03d%06d', floor($time / 1000), (int) fmod($time, 1000.0), (int) fmod($offset, 1000000.0));
    }

    /** Seconds since 1970. */
    public static function seconds(array $publication)
    {
        return sprintf('%.0f', floor((isset($publication['time']) ? (float) $publication['time'] : 0.0) / 1000));
    }

    /** The text as an XML element, with U+FFFD for what XML cannot carry. */
    public static function element($name, $text)
    {
        $text = self::carriable($text);
        // The end of a section cannot be said within one, and a parser turns a bare CR into LF.
        $text = str_replace(array(']]>', "\r"), array(']]]]><![CDATA[>', ']]>&#13;<![CDATA['), $text);
        return '<' . $name . '><![CDATA[' . $text . ']]></' . $name . '>';
    }

    /** The text as UTF-8 without the characters that no XML document may have. */
    private static function carriable($text)
    {
        if (preg_match('//u', $text) !== 1) {
            $good = '[\x09\x0A\x0D\x20-\x7F]|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}'
                . '|\xED[\x80-\x9F][\x80-\xBF]|\xF0[\x90-\xBF][\x80-\xBF]{2}|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2}';
            $text = preg_replace_callback('/(?:' . $good . ')++|(.)/s', array(__CLASS__, 'replaced'), $text);
        }
        return preg_replace('/[^\x{9}\x{A}\x{D}\x{20}-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]/u', "\xEF\xBF\xBD", $text);
    }

    /** A run of good characters as it is, a wrong byte as U+FFFD. */
    private static function replaced(array $match)
    {
        return isset($match[1]) ? "\xEF\xBF\xBD" : $match[0];
    }
}
