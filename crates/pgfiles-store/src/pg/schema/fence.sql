-- Grants and references: what a role is fenced to must hold all that its files need.

-- Whether a granted prefix holds one of two keys and not the other: then bytes are copied, not referred to.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_fenced(a text, b text) RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN false;
END $$;
