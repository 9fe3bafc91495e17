<?php

declare(strict_types=1);

namespace CometServer;

/**
 * Makes the tokens with which browsers subscribe: JWTs signed with HS256.
 *
 * The secret is that of a `[[tokens]]` entry of the server's configuration.
 */
final class Token
{
    /** The shortest secret that the server takes, in bytes. */
    private const MIN_SECRET = 32;

    /** How long a token holds if nothing else is said, in seconds. */
    private const LIFETIME = 3600;

    /**
     * A token for somebody.
     *
     * @param array{user?:string,channels?:string[],patterns?:string[],actions?:string[],lifetime?:int,expires?:int,kid?:string} $grant
     *        `actions`: of subscribe (the default), publish, history, presence; `lifetime` in seconds (an hour), or
     *        `expires` in seconds since 1970
     */
    public static function create(string $secret, array $grant): string
    {
        Needs::check();
        $comet = [];
        foreach (['channels', 'patterns'] as $kind) {
            if (isset($grant[$kind])) {
                $comet[$kind] = array_values($grant[$kind]);
            }
        }
        if ($comet === []) {
            throw new \InvalidArgumentException('a token without channels or patterns is for nothing: name at least one');
        }
        $comet['actions'] = array_values($grant['actions'] ?? ['subscribe']);
        $claims = ['exp' => $grant['expires'] ?? time() + ($grant['lifetime'] ?? self::LIFETIME), 'comet' => $comet];
        if (isset($grant['user'])) {
            $claims = ['sub' => $grant['user']] + $claims;
        }
        return self::sign($secret, $claims, $grant['kid'] ?? null);
    }

    /**
     * A token with these claims.
     *
     * @param array<string,mixed> $claims
     * @param string|null         $kid    the name of the secret, if the server has several
     */
    public static function sign(string $secret, array $claims, ?string $kid = null): string
    {
        Needs::check();
        if (strlen($secret) < self::MIN_SECRET) {
            throw new \InvalidArgumentException('the secret of tokens has at least ' . self::MIN_SECRET . ' bytes');
        }
        $header = ['alg' => 'HS256', 'typ' => 'JWT'] + ($kid === null ? [] : ['kid' => $kid]);
        $text = self::part(self::json($header)) . '.' . self::part(self::json($claims));
        return $text . '.' . self::part(hash_hmac('sha256', $text, $secret, true));
    }

    /** @param array<string,mixed> $value */
    private static function json(array $value): string
    {
        return json_encode($value, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_THROW_ON_ERROR);
    }

    private static function part(string $bytes): string
    {
        return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
    }
}
