<?php
/**
 * The entrance for applications written to version 1: `require 'lib/CometAutoloader.class.php'`.
 *
 * Its classes are those of version 2 under their old names.
 */

require_once __DIR__ . '/Comet/Internal/CometException.php';
require_once __DIR__ . '/Comet/Internal/Needs.php';

\Comet\Internal\Needs::check();

if (!defined('APP_LOCATION')) {
    define('APP_LOCATION', dirname(__FILE__) . '/..');
}
if (!defined('COMET_LOCATION')) {
    define('COMET_LOCATION', dirname(__FILE__) . '/../Comet');
}

require_once dirname(__FILE__) . '/Comet/Loader/ClassLoader.php';

if (!class_exists('CometAutoloader', false)) {

    class CometAutoloader
    {
        /** Loads a class of version 1, if it is one. */
        public static function autoload($class)
        {
            // Whatever is asked for becomes part of a path.
            if (preg_match('~^Comet[A-Za-z]+$~D', $class)) {
                $file = dirname(__FILE__) . '/scripts/' . $class . '.class.php';
                if (is_file($file)) {
                    require_once $file;
                }
            }
        }
    }

    spl_autoload_register(array('CometAutoloader', 'autoload'));
}

\Comet\Loader\ClassLoader::own();
