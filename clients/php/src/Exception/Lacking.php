<?php

declare(strict_types=1);

namespace CometServer\Exception;

// Asked for by its address, there is nobody to load what it extends: then nothing is shown. Even the function that tells may lack.
try {
    $isLoaded = class_exists(CometException::class);
} catch (\Error $lacking) {
    $isLoaded = true;
}
if (!$isLoaded) {
    return;
}

/** PHP lacks a function that is needed: the host forbids it, or an extension is not there. */
final class Lacking extends CometException
{
}
