<?php

namespace Comet\Loader;

/** Loads classes by namespace (PSR-0) and by prefix; applications add their own to `$GLOBALS['COMET_CLASS_LOADER']`. */
class ClassLoader
{
    private $namespaces = array();
    private $prefixes = array();
    private $registered = false;

    private static $own;

    /** The loader of this folder, registered. */
    public static function own()
    {
        if (self::$own === null) {
            self::$own = new self();
            self::$own->registerNamespace('Comet', dirname(dirname(dirname(__FILE__))));
            self::$own->register();
        }
        return self::$own;
    }

    public function registerNamespace($namespace, $paths)
    {
        $this->namespaces[$namespace] = (array) $paths;
    }

    public function registerNamespaces(array $namespaces)
    {
        foreach ($namespaces as $namespace => $paths) {
            $this->registerNamespace($namespace, $paths);
        }
    }

    public function registerPrefix($prefix, $paths)
    {
        $this->prefixes[$prefix] = (array) $paths;
    }

    public function registerPrefixes(array $prefixes)
    {
        foreach ($prefixes as $prefix => $paths) {
            $this->registerPrefix($prefix, $paths);
        }
    }

    public function getNamespaces()
    {
        return $this->namespaces;
    }

    public function getPrefixes()
    {
        return $this->prefixes;
    }

    public function register($prepend = false)
    {
        if (!$this->registered) {
            $this->registered = true;
            spl_autoload_register(array($this, 'loadClass'), true, $prepend);
        }
    }

    public function loadClass($class)
    {
        $file = $this->findFile($class);
        if ($file !== null) {
            require $file;
        }
    }

    /** The file of a class, or `null`. */
    public function findFile($class)
    {
        $class = ltrim($class, '\\');
        $end = strrpos($class, '\\');
        $space = $end === false ? '' : substr($class, 0, $end);
        $name = $end === false ? $class : substr($class, $end + 1);
        $path = ($space === '' ? '' : str_replace('\\', '/', $space) . '/') . str_replace('_', '/', $name) . '.php';
        foreach ($end === false ? $this->prefixes : $this->namespaces as $start => $folders) {
            $within = $end === false ? $name : $space . '\\';
            if (strpos($within, $end === false ? $start : rtrim($start, '\\') . '\\') !== 0) {
                continue;
            }
            foreach ($folders as $folder) {
                if (is_file($folder . '/' . $path)) {
                    return $folder . '/' . $path;
                }
            }
        }
        return null;
    }
}
