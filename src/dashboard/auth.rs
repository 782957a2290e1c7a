//! Who may ask: nobody but this machine's user, or whoever has a token.

pub mod tokens;

use super::service::Caller;
use tokens::Tokens;

/// How it is known who asks.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Whoever reaches the address is this caller: for loopback addresses alone.
    Local(Caller),
    /// Whoever has a token is the one that the token is of.
    Tokens(Tokens),
}

impl Auth {
    /// Returns who asks, by the token that came with the request, where one came.
    pub fn caller(&self, token: Option<&[u8]>) -> Option<Caller> {
        match self {
            Self::Local(caller) => Some(caller.clone()),
            Self::Tokens(tokens) => tokens.find(token?),
        }
    }

    /// Returns whether it is enough to reach the address.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

/// Returns this machine's user as a caller, for [`Auth::Local`]: it may read the server's files anyway, so it sees and
/// does everything.
pub fn local() -> Caller {
    let name = user_name().unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    Caller::new(name, true)
}

/// Looks the user up as `id -un` does where users are files; other directories of users need a C library.
fn user_name() -> Option<String> {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        (id == uid).then(|| name.to_owned())
    })?;
    tokens::is_caller(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_user_needs_no_token_and_has_a_name() {
        let caller = local();
        assert!(tokens::is_caller(&caller.name) && caller.admin, "{caller:?}");
        assert_eq!(Auth::Local(caller.clone()).caller(None), Some(caller));
    }

    #[test]
    fn with_tokens_nobody_comes_in_without_one() {
        let tokens = Tokens::parse("a:0123456789abcdef").expect("good");
        let auth = Auth::Tokens(tokens);
        assert_eq!(auth.caller(None), None);
        assert_eq!(auth.caller(Some(b"")), None);
        assert!(auth.caller(Some(b"0123456789abcdef")).is_some());
    }
}
