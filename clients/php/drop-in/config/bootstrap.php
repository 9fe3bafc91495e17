<?php
/** The entrance for applications written to version 2: `require 'config/bootstrap.php'`. */

use Comet\Boot\Bootstrap as BaseBootstrap;

require_once __DIR__ . '/../lib/Comet/Internal/CometException.php';
require_once __DIR__ . '/../lib/Comet/Internal/Needs.php';

\Comet\Internal\Needs::check();

if (!defined('ROOT_COMET')) {
    define('ROOT_COMET', realpath(dirname(__FILE__) . '/..'));
}

require_once dirname(__FILE__) . '/../lib/Comet/Loader/ClassLoader.php';

$GLOBALS['COMET_CLASS_LOADER'] = \Comet\Loader\ClassLoader::own();

// An application may have a class of this name already.
if (!class_exists('Bootstrap', false)) {

    class Bootstrap extends BaseBootstrap
    {
        public function initLoader()
        {
            $GLOBALS['COMET_CLASS_LOADER']->register();
        }

        public function initLogger()
        {
        }
    }

    $bootstrap = new Bootstrap();
    $bootstrap->boot();
}
