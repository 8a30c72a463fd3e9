//! The hosts of a URL, which may be several.

/// The URL up to its hosts, the hosts with their ports and the commas between them, and the rest.
pub(crate) fn split_hosts(url: &str) -> (&str, &str, &str) {
    let start = url.find("://").map_or(0, |at| at + "://".len());
    let length = url[start..].find(['/', '?', '#']);
    let end = length.map_or(url.len(), |length| start + length);
    let login = url[start..end].rfind('@');
    let start = login.map_or(start, |at| start + at + 1);
    (&url[..start], &url[start..end], &url[end..])
}

/// Whether a host of a URL has a port behind it. The colons of an IPv6 address are in brackets.
pub(crate) fn has_port(host: &str) -> bool {
    !host.ends_with(']') && host.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_are_between_login_and_path() {
        for (url, parts) in [
            ("mysql://h/d", ("mysql://", "h", "/d")),
            (
                "mysql://u,v:p,w@h,i:1/d?a=b@c",
                ("mysql://u,v:p,w@", "h,i:1", "/d?a=b@c"),
            ),
            (
                "redis-cluster://:p@q@[::1]:1,h?x",
                ("redis-cluster://:p@q@", "[::1]:1,h", "?x"),
            ),
            ("redis+unix:///run/a,b", ("redis+unix://", "", "/run/a,b")),
            ("redis://h", ("redis://", "h", "")),
        ] {
            assert_eq!(split_hosts(url), parts, "{url}");
        }
    }
}
