# Builds pgfiles from source. Of a working tree: `brew install --HEAD ./packaging/homebrew/pgfiles.rb`.
# `scripts/package formula ARCHIVE` adds the address and checksum of a release.
class Pgfiles < Formula
  desc "Working directory that lives in one Postgres table, every save a version"
  homepage "https://github.com/pgfiles/pgfiles"
  license "MIT"
  head "https://github.com/pgfiles/pgfiles.git", branch: "main"

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args(path: "crates/pgfiles")
    generate_completions_from_executable(bin/"pgfiles", "completions")
    man1.mkpath
    system bin/"pgfiles", "man", "--dir", man1
    doc.install "README.md", "docs"
  end

  def caveats
    text = <<~EOS
      With the DSN `local:` pgfiles runs a private Postgres itself, once its programs are there:
        brew install postgresql@17
    EOS
    on_macos do
      text += <<~EOS
        Mounting needs nothing else: it goes over NFS, which is part of macOS.
      EOS
    end
    on_linux do
      text += <<~EOS
        Mounting as an ordinary user needs fusermount3, which only root can install: `apt install fuse3`.
      EOS
    end
    text
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/pgfiles --version") unless head?
    assert_match "PGFILES_DSN", shell_output("#{bin}/pgfiles init 2>&1", 2)
    assert_match "close", shell_output("#{bin}/pgfiles config show")
  end
end
