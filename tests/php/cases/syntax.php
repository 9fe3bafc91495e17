<?php
/** Which PHP the files need: the drop-in 5.3, the bridge 5.6, the client 7.4. There is only one PHP here, so its tokens are looked at. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';

/** @return string[] */
function php_files(string $folder): array
{
    $found = [];
    foreach (new RecursiveIteratorIterator(new RecursiveDirectoryIterator($folder, FilesystemIterator::SKIP_DOTS)) as $file) {
        if ($file->getExtension() === 'php') {
            $found[] = $file->getPathname();
        }
    }
    sort($found);
    return $found;
}

/** What is too new for a version, as `line: what`. */
function too_new(string $code, string $version): array
{
    $tokens = array_values(array_filter(token_get_all($code), static fn ($t): bool => !is_array($t) || !in_array($t[0], [T_WHITESPACE, T_COMMENT, T_DOC_COMMENT], true)));
    $since = [];
    foreach (['T_YIELD' => '5.5', 'T_FINALLY' => '5.5', 'T_TRAIT' => '5.4', 'T_INSTEADOF' => '5.4', 'T_CALLABLE' => '5.4', 'T_ELLIPSIS' => '5.6', 'T_POW' => '5.6',
        'T_POW_EQUAL' => '5.6', 'T_COALESCE' => '7.0', 'T_SPACESHIP' => '7.0', 'T_YIELD_FROM' => '7.0', 'T_FN' => '7.4', 'T_COALESCE_EQUAL' => '7.4',
        'T_MATCH' => '8.0', 'T_NULLSAFE_OBJECT_OPERATOR' => '8.0', 'T_ATTRIBUTE' => '8.0', 'T_ENUM' => '8.1', 'T_READONLY' => '8.1'] as $name => $first) {
        if (defined($name)) {
            $since[constant($name)] = [$first, $name];
        }
    }
    $text = static fn ($t): string => is_array($t) ? $t[1] : (string) $t;
    $functions = [
        '5.4' => ['http_response_code', 'session_status', 'hex2bin', 'header_register_callback', 'class_uses', 'getimagesizefromstring'],
        '5.5' => ['array_column', 'json_last_error_msg', 'password_hash', 'boolval', 'cli_set_process_title'],
        '5.6' => ['hash_equals', 'ldap_escape'],
        '7.0' => ['random_bytes', 'random_int', 'intdiv', 'error_clear_last', 'preg_replace_callback_array'],
        '7.3' => ['hrtime', 'array_key_first', 'array_key_last', 'is_countable'],
        '8.0' => ['str_contains', 'str_starts_with', 'str_ends_with', 'get_debug_type', 'preg_last_error_msg', 'fdiv'],
    ];
    $found = [];
    $line = 0;
    $in = static fn (string $first): bool => version_compare($first, $version, '>');
    foreach ($tokens as $i => $token) {
        $line = is_array($token) ? $token[2] : $line;
        $before = $i > 0 ? $tokens[$i - 1] : null;
        $after = $tokens[$i + 1] ?? null;
        $say = static function (string $first, string $what) use (&$found, $line, $in): void {
            if ($in($first)) {
                $found[] = "$line: $what needs PHP $first";
            }
        };
        if (is_array($token) && isset($since[$token[0]])) {
            // `?->` and the like; a method may be called `match`.
            $say(...$since[$token[0]]);
        }
        if ($token === '[') {
            $indexes = is_array($before) ? in_array($before[0], [T_VARIABLE, T_STRING, T_STRING_VARNAME], true) : in_array($before, [']', '}'], true);
            if ($before === ')') {
                $say('5.4', 'indexing what a call gives');
            } elseif (is_array($before) && in_array($before[0], [T_CONSTANT_ENCAPSED_STRING], true)) {
                $say('5.5', 'indexing a literal');
            } elseif (!$indexes) {
                $say('5.4', 'a short array');
            }
        }
        if (is_array($token) && $token[0] === T_CLASS && is_array($before) && $before[0] === T_DOUBLE_COLON) {
            $say('5.5', '::class');
        }
        if (is_array($token) && $token[0] === T_LNUMBER && preg_match('~^0[bo]|_~i', $token[1])) {
            $say('5.4', 'such a number');
        }
        if (is_array($token) && $token[0] === T_CONST && is_array($before) && in_array($before[0], [T_PRIVATE, T_PROTECTED, T_PUBLIC], true)) {
            $say('7.1', 'a constant with a visibility');
        }
        if (is_array($token) && $token[0] === T_CONST) {
            for ($j = $i + 1; isset($tokens[$j]) && $tokens[$j] !== ';'; $j++) {
                if (in_array($text($tokens[$j]), ['<<', '|', '+', '*', '.', '('], true)) {
                    $say('5.6', 'an expression in a constant');
                }
            }
        }
        if (is_array($token) && $token[0] === T_STRING && $after === '(' && !(is_array($before) && in_array($before[0], [T_OBJECT_OPERATOR, T_DOUBLE_COLON, T_FUNCTION, T_NEW], true))) {
            foreach ($functions as $first => $names) {
                if (in_array(strtolower($token[1]), $names, true)) {
                    // Asked for before it is used?
                    if (strpos($code, "function_exists('$token[1]')") === false) {
                        $say((string) $first, $token[1] . '()');
                    }
                }
            }
        }
        if ($token === '(' && is_array($before) && $before[0] === T_EMPTY && is_array($after) && $after[0] !== T_VARIABLE && !(is_array($tokens[$i + 2] ?? null) && $tokens[$i + 2][0] === T_DOUBLE_COLON)) {
            $say('5.5', 'empty() of an expression');
        }
        if ($token === '(' && is_array($after) && $after[0] === T_NEW && (($end = closing($tokens, $i)) !== null) && is_array($tokens[$end + 1] ?? null) && $tokens[$end + 1][0] === T_OBJECT_OPERATOR) {
            $say('5.4', '(new X)->');
        }
        if (is_array($token) && $token[0] === T_FUNCTION) {
            $open = $i + 1;
            while ($tokens[$open] !== '(') {
                $open++;
            }
            $end = closing($tokens, $open);
            for ($j = $open + 1; $j < $end; $j++) {
                if (in_array($text($tokens[$j]), ['string', 'int', 'float', 'bool', 'iterable', 'object', 'mixed'], true) && is_array($tokens[$j]) && $tokens[$j][0] === T_STRING && is_array($tokens[$j + 1]) && $tokens[$j + 1][0] === T_VARIABLE) {
                    $say($text($tokens[$j]) === 'mixed' ? '8.0' : '7.0', 'a scalar type');
                }
                if ($tokens[$j] === '?' && is_array($tokens[$j + 1]) && $tokens[$j + 1][0] !== T_VARIABLE) {
                    $say('7.1', 'a nullable type');
                }
                if (is_array($tokens[$j]) && in_array($tokens[$j][0], [T_PRIVATE, T_PUBLIC, T_PROTECTED], true)) {
                    $say('8.0', 'a promoted parameter');
                }
                if ($tokens[$j] === ',' && $j + 1 === $end) {
                    $say('8.0', 'a comma behind the last parameter');
                }
            }
            if (($tokens[$end + 1] ?? null) === ':') {
                $say('7.0', 'a return type');
                if ($text($tokens[$end + 2]) === 'static') {
                    $say('8.0', 'the return type static');
                }
            }
        }
        if (is_array($token) && $token[0] === T_CATCH) {
            $end = closing($tokens, $i + 1);
            $inside = implode(' ', array_map($text, array_slice($tokens, $i + 2, $end - $i - 2)));
            if (strpos($inside, '|') !== false) {
                $say('7.1', 'catch of several');
            }
            if (strpos($inside, '$') === false) {
                $say('8.0', 'catch without a variable');
            }
        }
        if (is_array($token) && in_array($token[0], [T_PRIVATE, T_PUBLIC, T_PROTECTED, T_STATIC], true) && is_array($after) && in_array($after[0], [T_STRING, T_ARRAY], true)
            && is_array($tokens[$i + 2] ?? null) && $tokens[$i + 2][0] === T_VARIABLE) {
            $say('7.4', 'a typed property');
        }
    }
    return $found;
}

function closing(array $tokens, int $open): ?int
{
    $depth = 0;
    for ($j = $open; isset($tokens[$j]); $j++) {
        $depth += $tokens[$j] === '(' ? 1 : ($tokens[$j] === ')' ? -1 : 0);
        if ($depth === 0) {
            return $j;
        }
    }
    return null;
}

test('the judge of versions knows what is too new', function (): void {
    $samples = ['$a = [1];', '$a = f()[0];', '$a ?? 1;', 'function f(string $a) {}', 'function f(): int {}', 'X::class;', 'const A = 1 << 2;', '(new X)->y();', 'http_response_code(1);',
        'try {} finally {}', 'function f(...$a) {}', 'try {} catch (A | B $c) {}', 'class X { private const A = 1; }', 'class X { public int $a; }', 'fn($a) => 1;', 'empty(f());', 'foreach ($a as [$b]) {}'];
    foreach ($samples as $sample) {
        yes(too_new("<?php $sample", '5.3') !== [], $sample);
    }
    same([], too_new('<?php $a = array(1); $b = $a[0]; $c = $a ? 1 : 2; class X { const A = 1; public $b = 2; static function f(array $x) { return $x[1][2]; } } $f = function ($x) use ($a) { return "{$a[0]}"; };', '5.3'));
    same(['1: a scalar type needs PHP 8.0'], too_new('<?php function f(mixed $a) {}', '7.4'));
});

foreach (['drop-in and start.php' => ['5.3', array_merge(php_files(ROOT . '/clients/php/drop-in'), [ROOT . '/clients/php/start.php'])],
    'the bridge' => ['5.6', [ROOT . '/clients/php/bridge.php']],
    'the plug-in' => ['7.2', [ROOT . '/clients/wordpress/cometserver.php']],
    'the client' => ['7.4', array_merge(php_files(ROOT . '/clients/php/src'), [ROOT . '/clients/php/autoload.php'])]] as $what => [$version, $files]) {
    test("$what: nothing is newer than PHP $version", function () use ($version, $files): void {
        yes($files !== [], 'there are files');
        foreach ($files as $file) {
            same([], too_new(file_get_contents($file), $version), $file);
        }
    });
    test("$what: this PHP takes every file without a word", function () use ($files): void {
        foreach ($files as $file) {
            $said = shell_exec(escapeshellarg(PHP_BINARY) . ' -d error_reporting=32767 -d display_errors=1 -l ' . escapeshellarg($file) . ' 2>&1');
            same("No syntax errors detected in $file\n", ltrim($said));
        }
    });
}

test('nothing in the drop-in starts a process', function (): void {
    foreach (php_files(ROOT . '/clients/php/drop-in') as $file) {
        foreach (token_get_all(file_get_contents($file)) as $token) {
            $bad = $token === '`' || (is_array($token) && $token[0] === T_STRING && in_array($token[1], ['exec', 'passthru', 'shell_exec', 'system', 'popen', 'proc_open', 'pcntl_fork', 'pcntl_exec', 'mail'], true));
            yes(!$bad, "$file: " . (is_array($token) ? $token[1] : $token));
        }
    }
});
