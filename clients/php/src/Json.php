<?php

declare(strict_types=1);

namespace CometServer;

use CometServer\Exception\BadAnswer;

/**
 * JSON read part by part, for answers in which one value stops PHP from reading the rest: half a surrogate pair, or nesting too
 * deep, which older servers took. Only the grammar is needed to find the parts, so what is in them does not matter.
 */
final class Json
{
    private const BLANKS = " \t\n\r";

    /**
     * An object, decoded. If that fails because of the member `$odd`, it is left out, and a member `unreadable` says why.
     *
     * @return array<string,mixed>
     *
     * @throws BadAnswer if something else cannot be read
     */
    public static function object(string $json, string $odd): array
    {
        $value = json_decode($json, true);
        if (is_array($value)) {
            return $value;
        }
        $reason = json_last_error_msg();
        $members = self::members($json);
        unset($members[$odd]);
        return array_map([self::class, 'value'], $members) + ['unreadable' => $reason];
    }

    /**
     * A value, decoded.
     *
     * @return mixed
     *
     * @throws BadAnswer if it cannot be read
     */
    public static function value(string $json)
    {
        $value = json_decode($json, true);
        if (json_last_error() !== JSON_ERROR_NONE) {
            throw self::bad();
        }
        return $value;
    }

    /**
     * The members of an object, each as its JSON text.
     *
     * @return array<string,string>
     *
     * @throws BadAnswer if it is no object
     */
    public static function members(string $json): array
    {
        $members = [];
        $at = self::begin($json, '{');
        while (($json[$at] ?? '') !== '}') {
            $colon = self::skip($json, $end = self::end($json, $at));
            $name = self::value(substr($json, $at, $end - $at));
            if (!is_string($name) || ($json[$colon] ?? '') !== ':') {
                throw self::bad();
            }
            $at = self::skip($json, $colon + 1);
            $members[$name] = substr($json, $at, ($end = self::end($json, $at)) - $at);
            $at = self::next($json, $end, '}');
        }
        return $members;
    }

    /**
     * The elements of a list, each as its JSON text.
     *
     * @return list<string>
     *
     * @throws BadAnswer if it is no list
     */
    public static function elements(string $json): array
    {
        $elements = [];
        $at = self::begin($json, '[');
        while (($json[$at] ?? '') !== ']') {
            $end = self::end($json, $at);
            $elements[] = substr($json, $at, $end - $at);
            $at = self::next($json, $end, ']');
        }
        return $elements;
    }

    /** Where what a bracket holds begins. */
    private static function begin(string $json, string $bracket): int
    {
        $at = self::skip($json, 0);
        if (($json[$at] ?? '') !== $bracket) {
            throw self::bad();
        }
        return self::skip($json, $at + 1);
    }

    /** Where the next part begins after one, or its bracket ends. */
    private static function next(string $json, int $end, string $bracket): int
    {
        $at = self::skip($json, $end);
        if (($json[$at] ?? '') === $bracket) {
            return $at;
        }
        if (($json[$at] ?? '') !== ',') {
            throw self::bad();
        }
        return self::skip($json, $at + 1);
    }

    private static function skip(string $json, int $at): int
    {
        return $at + strspn($json, self::BLANKS, $at);
    }

    /** Where the value ends that begins here. */
    private static function end(string $json, int $at): int
    {
        $begin = $at;
        $depth = 0;
        do {
            switch ($json[$at] ?? '') {
                case '':
                    throw self::bad();
                case '"':
                    $at = self::endOfString($json, $at);
                    break;
                case '{':
                case '[':
                    $depth++;
                    $at++;
                    break;
                case '}':
                case ']':
                    $depth--;
                    $at++;
                    break;
                default:
                    // A number or a word alone; within brackets all that is neither text nor bracket.
                    $at += max(1, strcspn($json, $depth > 0 ? '"{}[]' : ',}] ' . self::BLANKS, $at));
            }
        } while ($depth > 0);
        if ($depth < 0 || $at === $begin) {
            throw self::bad();
        }
        return $at;
    }

    private static function endOfString(string $json, int $at): int
    {
        for ($at++; isset($json[$at]); $at += 2) {
            $at += strcspn($json, '"\\', $at);
            if (($json[$at] ?? '') === '"') {
                return $at + 1;
            }
        }
        throw self::bad();
    }

    private static function bad(): BadAnswer
    {
        return new BadAnswer('the answer is not JSON');
    }
}
