//! A list that is nearly always short: one element takes no memory of its own.

/// See the module. The order is that of a vector, [`Few::swap_remove`] included.
#[derive(Debug)]
pub(crate) struct Few<T>(Kept<T>);

#[derive(Debug)]
enum Kept<T> {
    One(T),
    /// None, or at some time more than one.
    Many(Vec<T>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Kept::Many(Vec::new()))
    }
}

impl<T: Copy> Few<T> {
    /// Appends an element.
    pub(crate) fn push(&mut self, element: T) {
        match &mut self.0 {
            Kept::Many(many) if many.capacity() == 0 => self.0 = Kept::One(element),
            Kept::Many(many) => many.push(element),
            Kept::One(first) => self.0 = Kept::Many(vec![*first, element]),
        }
    }

    /// Takes an element out; the last one takes its place.
    ///
    /// # Panics
    /// There is no such element.
    pub(crate) fn swap_remove(&mut self, at: usize) -> T {
        match &mut self.0 {
            Kept::Many(many) => {
                let gone = many.swap_remove(at);
                if many.is_empty() {
                    *many = Vec::new();
                }
                gone
            }
            Kept::One(one) => {
                assert_eq!(at, 0, "there is one element");
                let gone = *one;
                *self = Self::default();
                gone
            }
        }
    }
}

impl<T> std::ops::Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Kept::One(one) => std::slice::from_ref(one),
            Kept::Many(many) => many,
        }
    }
}

impl<T> std::ops::DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Kept::One(one) => std::slice::from_mut(one),
            Kept::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_elements_behave_as_a_vector() {
        let (mut few, mut vector) = (Few::default(), Vec::new());
        for step in 0..200u32 {
            // Grows to about ten elements and shrinks to none, several times.
            if step % 20 < 10 {
                few.push(step);
                vector.push(step);
            } else {
                let at = step as usize * 7 % vector.len();
                assert_eq!(few.swap_remove(at), vector.swap_remove(at));
            }
            if let Some(first) = few.first_mut() {
                *first += 1;
                vector[0] += 1;
            }
            assert_eq!(*few, *vector);
        }
        assert!(few.is_empty());
    }

    #[test]
    fn one_element_takes_no_more_room_than_an_empty_vector() {
        assert_eq!(size_of::<Few<(u32, u32)>>(), size_of::<Vec<(u32, u32)>>());
    }
}
