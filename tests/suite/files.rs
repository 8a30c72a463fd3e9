//! What files do to the engine: cut short, swapped, unreadable, too large, of a strange kind.

mod hostile;
