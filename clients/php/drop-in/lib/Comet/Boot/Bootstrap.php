<?php

namespace Comet\Boot;

/** Runs every method of a subclass whose name begins with `init`, in the order in which they are written. */
abstract class Bootstrap
{
    /** @var Bootstrap the one made last */
    public static $instance;

    public function __construct()
    {
        self::$instance = $this;
    }

    public function boot()
    {
        foreach (get_class_methods($this) as $method) {
            if (strpos($method, 'init') === 0) {
                $this->$method();
            }
        }
    }
}
