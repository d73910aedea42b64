//! Container images of a few files, without a container engine.

use crate::programs::hex;
use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in the making: files, and what runs by default.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    files: BTreeMap<PathBuf, File>,
    folders: BTreeMap<PathBuf, u32>,
    entrypoint: Vec<String>,
    user: String,
    environment: Vec<String>,
}

#[derive(Debug, Clone)]
struct File {
    content: Vec<u8>,
    mode: u32,
}

impl Image {
    /// An empty image; `name` is what pods ask for, in full (`example.test/echo:1`).
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            files: BTreeMap::new(),
            // Kubernetes mounts things there, and programs expect it.
            folders: BTreeMap::from([(PathBuf::from("tmp"), 0o1777)]),
            entrypoint: Vec::new(),
            user: String::new(),
            environment: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
        }
    }

    /// An image that runs one program, and has nothing else if that is static.
    pub fn of_program(name: &str, program: &Path) -> Result<Self> {
        let file_name =
            program.file_name().and_then(|name| name.to_str()).context("the program has no name")?;
        let inside = format!("/{file_name}");
        let image = Self::new(name).copy(program, &inside)?.entrypoint(&[&inside]);
        if image.is_static(&inside)? { Ok(image) } else { image.copy_libraries(program) }
    }

    /// The name that pods ask for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds an empty folder; `path` is absolute.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.folders.insert(inside(path), mode);
        self
    }

    /// Adds a file; `path` is absolute.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(inside(path), File { content: content.into(), mode });
        self
    }

    /// Adds a copy of this machine's file, with its permissions.
    pub fn copy(self, from: &Path, to: &str) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let read =
            || Ok::<_, std::io::Error>((std::fs::read(from)?, std::fs::metadata(from)?.permissions().mode()));
        let (content, mode) = read().with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.file(to, mode & 0o7777, content))
    }

    /// Adds one of this machine's programs with every shared library it is linked to, all in their places.
    pub fn copy_linked(self, program: &str) -> Result<Self> {
        self.copy_libraries(Path::new(program))?.copy(Path::new(program), program)
    }

    fn copy_libraries(mut self, program: &Path) -> Result<Self> {
        let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ldd {}: {}", program.display(), complaint.trim());
        for library in linked(&String::from_utf8_lossy(&output.stdout))? {
            self = self.copy(Path::new(&library), &library)?;
        }
        Ok(self)
    }

    /// The command line that runs unless a pod says another.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(ToString::to_string).collect();
        self
    }

    /// The user (`id` or `id:group`) it runs as unless a pod says another.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Whether a program in the image needs no library.
    pub(crate) fn is_static(&self, path: &str) -> Result<bool> {
        let content =
            &self.files.get(&inside(path)).with_context(|| format!("no {path} in the image"))?.content;
        ensure!(content.starts_with(b"\x7fELF"), "{path} is no program");
        // Whatever is not static names its loader.
        let loader = b"/ld-linux";
        Ok(!content.windows(loader.len()).take(1 << 12).any(|window| window == loader))
    }

    /// The image as a tar archive of an OCI image layout (image-spec v1.0), as `ctr images import` takes it.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "User": self.user, "Env": self.environment, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
        })
        .to_string()
        .into_bytes();
        let mut described = descriptor(MANIFEST, &manifest);
        described["annotations"] = json!({ "io.containerd.image.name": self.name });
        // What `docker load` understands that knows no OCI layouts.
        let blob = |content: &[u8]| digest_of(content).replace("sha256:", "blobs/sha256/");
        let docker = json!([{ "Config": blob(&config), "RepoTags": [self.name], "Layers": [blob(&layer)] }]);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });

        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, Path::new("oci-layout"), 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, Path::new("index.json"), 0o644, index.to_string().as_bytes())?;
        append(&mut archive, Path::new("manifest.json"), 0o644, docker.to_string().as_bytes())?;
        for content in [&layer, &config, &manifest] {
            append(&mut archive, Path::new(&blob(content)), 0o644, content)?;
        }
        Ok(archive.into_inner()?)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        // Sorted, so every folder comes before what is in it.
        let named = self.files.keys().chain(self.folders.keys());
        let above =
            named.flat_map(|path| path.ancestors().skip(1)).filter(|folder| !folder.as_os_str().is_empty());
        let mut folders: BTreeMap<&Path, u32> = above.map(|folder| (folder, 0o755)).collect();
        folders.extend(self.folders.iter().map(|(path, mode)| (path.as_path(), *mode)));

        let mut layer = tar::Builder::new(Vec::new());
        for (folder, mode) in folders {
            append_folder(&mut layer, folder, mode)?;
        }
        for (path, file) in &self.files {
            append(&mut layer, path, file.mode, &file.content)?;
        }
        Ok(layer.into_inner()?)
    }
}

/// An absolute path as archives have it.
fn inside(path: &str) -> PathBuf {
    path.trim_start_matches('/').into()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, content).with_context(|| format!("cannot pack {}", path.display()))
}

fn append_folder(archive: &mut tar::Builder<Vec<u8>>, path: &Path, mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    archive
        .append_data(&mut header, path, std::io::empty())
        .with_context(|| format!("cannot pack {}", path.display()))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(content), "size": content.len() })
}

fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex(digest(&SHA256, content).as_ref()))
}

/// This machine's processor by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The paths in the output of `ldd`: `name => /path (address)`, or `/path (address)` for the loader.
fn linked(output: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in output.lines() {
        ensure!(!line.contains("not found"), "a shared library is missing: {}", line.trim());
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn entries(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, (entry.header().mode().unwrap(), content))
        });
        entries.collect()
    }

    #[test]
    fn every_blob_is_found_by_the_digest_that_names_it() {
        let image =
            Image::new("example.test/a:1").file("/etc/deep/a", 0o640, "content").folder("/var/own", 0o777);
        let image = image.entrypoint(&["/a"]);
        let archive = entries(&image.archive().unwrap());
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let (_, content) = &archive[&digest.replace("sha256:", "blobs/sha256/")];
            assert_eq!(digest_of(content), digest);
            assert_eq!(content.len() as u64, descriptor["size"].as_u64().unwrap());
            content.clone()
        };
        let index: Value = serde_json::from_slice(&archive["index.json"].1).unwrap();
        let described = &index["manifests"][0];
        assert_eq!(described["annotations"]["io.containerd.image.name"], "example.test/a:1");
        let manifest: Value = serde_json::from_slice(&blob(described)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/a"]));
        let docker: Value = serde_json::from_slice(&archive["manifest.json"].1).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!(["example.test/a:1"]));
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(archive.contains_key(path.as_str().unwrap()));
        }
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);

        let layer = entries(&blob(&manifest["layers"][0]));
        assert_eq!(layer["etc/deep/a"], (0o640, b"content".to_vec()));
        assert_eq!(
            layer.keys().collect::<Vec<_>>(),
            ["etc", "etc/deep", "etc/deep/a", "tmp", "var", "var/own"]
        );
        assert_eq!([layer["tmp"].0, layer["var"].0, layer["var/own"].0], [0o1777, 0o755, 0o777]);
    }

    #[test]
    fn a_program_that_is_not_static_brings_its_libraries() {
        let image = Image::of_program("example.test/sh:1", Path::new("/bin/sh")).unwrap();
        assert!(image.files.keys().any(|path| path.to_string_lossy().contains("ld-linux")));
        let error = Image::of_program("example.test/x:1", Path::new("/etc/passwd")).unwrap_err().to_string();
        assert_eq!(error, "/passwd is no program");
        let error = Image::of_program("example.test/x:1", Path::new("/no/such")).unwrap_err().to_string();
        assert_eq!(error, "cannot read /no/such");
    }

    #[test]
    fn shared_libraries_are_found_and_a_missing_one_is_named() {
        let output = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(linked(output).unwrap(), ["/lib/libc.so.6", "/lib64/ld-linux.so.2"]);
        let error = linked("\tlibz.so.1 => not found\n").unwrap_err().to_string();
        assert_eq!(error, "a shared library is missing: libz.so.1 => not found");
    }
}
