//! HTTP on the client port and beside it, and what both protocols do with clients that mean no good.

mod endpoints;
mod hostile;
mod limits;
mod probe;
