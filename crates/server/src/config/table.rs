//! How a section of settings is declared: once, and fields, docs, defaults, parser and `default_toml` all follow.

use std::any::Any;

use super::values::{Problem, Raw};

/// One setting as people see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Its name inside its section, such as `history.count`.
    pub(super) key: &'static str,
    /// Its default, as it would be written in a variable.
    pub(super) default: &'static str,
    /// What to show, commented out, where the default is "nothing" or depends on the machine; else empty.
    pub(super) example: &'static str,
    /// Its documentation, line by line.
    pub(super) doc: &'static [&'static str],
}

/// A struct of settings that can be filled by name.
pub(super) trait Section {
    /// What the section is about, line by line.
    fn about(&self) -> &'static [&'static str];

    /// Its settings in the order in which they are declared.
    fn rows(&self) -> &'static [Row];

    /// Parses `raw` into the setting `key`; `None` if there is no such setting.
    fn assign(&mut self, key: &str, raw: &Raw) -> Option<Result<(), Problem>>;

    /// The present values, in the order of [`Section::rows`], in a form good enough to tell whether they differ.
    fn values(&self) -> Vec<String>;

    /// Takes the value of the setting `key` from another section of the same type; from any other nothing.
    fn take(&mut self, key: &str, from: &dyn Any);

    /// Itself, as what `take` takes from.
    fn as_any(&self) -> &dyn Any;
}

/// Declares a section: `field "key": Type = "default" => parser, example "…";`.
///
/// The doc comments become both the Rust docs and the comments of `default_toml`. Fields under `with` are not settings.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $key:literal: $type:ty = $default:literal => $parse:expr $(, example $example:literal)?;
            )*
        }
        $(with { $( $(#[doc = $extra_doc:literal])* $extra:ident: $extra_type:ty; )* })?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
            $( $( $(#[doc = $extra_doc])* pub $extra: $extra_type, )* )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: ($parse)(&$crate::config::values::Raw::text($default))
                        .expect("a test parses every default"), )*
                    $( $( $extra: <$extra_type>::default(), )* )?
                }
            }
        }

        impl $crate::config::table::Section for $name {
            fn about(&self) -> &'static [&'static str] {
                &[$($about),*]
            }

            fn rows(&self) -> &'static [$crate::config::table::Row] {
                const ROWS: &[$crate::config::table::Row] = &[$(
                    $crate::config::table::Row {
                        key: $key,
                        default: $default,
                        example: concat!("" $(, $example)?),
                        doc: &[$($doc),*],
                    },
                )*];
                ROWS
            }

            fn assign(
                &mut self,
                key: &str,
                raw: &$crate::config::values::Raw,
            ) -> Option<Result<(), $crate::config::values::Problem>> {
                match key {
                    $( $key => Some(($parse)(raw).map(|value| self.$field = value)), )*
                    _ => None,
                }
            }

            fn values(&self) -> Vec<String> {
                vec![$( format!("{:?}", self.$field) ),*]
            }

            fn take(&mut self, key: &str, from: &dyn std::any::Any) {
                let Some(from) = from.downcast_ref::<Self>() else { return };
                match key {
                    $( $key => self.$field.clone_from(&from.$field), )*
                    _ => {}
                }
            }

            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
    };
}

pub(super) use section;
